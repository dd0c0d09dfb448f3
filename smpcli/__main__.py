"""`python -m smpcli` is `smp`."""

from smpcli.main import main

main()

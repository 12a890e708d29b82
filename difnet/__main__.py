from difnet.cli import main

main()

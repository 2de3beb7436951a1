"""python3 -m bench"""

from bench.main import main

main()

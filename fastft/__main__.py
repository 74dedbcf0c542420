"""`python -m fastft`, which is also what `torchrun -m fastft train ...` starts in each process."""

from fastft.cli import main

if __name__ == "__main__":
    main()

"""The command line as a module: ``python -m scattervae``, and what ``torchrun -m scattervae`` starts."""

from scattervae.cli import main

if __name__ == "__main__":
    main()

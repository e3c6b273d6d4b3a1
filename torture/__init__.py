"""What breaks on purpose, counted in one table: `make torture` prints it. Each part yields rows for it."""

"""The benchmarks that asv runs commit by commit; see README.md in this folder."""

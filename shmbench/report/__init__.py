"""Numbers to text: tables on a terminal, one HTML file for everything else."""

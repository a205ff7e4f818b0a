"""Pages for the browser on this machine, and the server that shows them to nobody else."""

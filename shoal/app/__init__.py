"""What a user sees and keeps: the command line, console, plots and run folders."""

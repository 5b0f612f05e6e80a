"""This process: its signals and the CPUs it may use."""

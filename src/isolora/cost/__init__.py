"""What a run costs, before and as measured: FLOPs, memory, seconds, money."""

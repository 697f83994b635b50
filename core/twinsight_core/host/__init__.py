"""What the machine gives a process: cores, memory, devices, files; nothing of pictures or vectors."""

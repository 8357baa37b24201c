"""The .mar as a file: reading a stranger's within limits, writing one, what a server needs beside it."""

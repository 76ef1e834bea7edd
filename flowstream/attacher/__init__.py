"""The privileged process that attaches, for an agent that has given up every privilege."""

"""One module a process: each wires rings, rooms and files together; `runtime` is the loop around all of them, `zygote` their parent."""

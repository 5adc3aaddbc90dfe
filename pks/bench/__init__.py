"""The benchmarks behind `pks bench`: each measures promises of the design against a peer in the same run, and says what it did.

Imported by `pks.cli.bench` alone; may import every other room. One module a bench, with one function `measure(plan) -> Measured`. Benches
run on segments, rings and instances of their own, in a scratch folder, and leave nothing behind.
"""

"""The folder that protoc sees as `pks`: the package of the messages is `pks.v1`."""

"""The domain, pure: values in, values out. No socket, clock, file, logger or shared-memory name below this line."""

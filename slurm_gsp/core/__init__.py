"""The pure core: values in, values out; standard library only; no clock, no file, no process."""

"""What tests of several kinds need from the machine: namespaces, devices, traffic."""

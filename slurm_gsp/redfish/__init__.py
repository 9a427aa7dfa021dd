"""Out-of-band truth: the firmware that each node's BMC lists over Redfish. Reads, and changes nothing."""

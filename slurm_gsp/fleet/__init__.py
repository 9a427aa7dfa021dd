"""The fleet at one moment: who runs what, who is odd, who is silent. Pure: records in, one view out."""

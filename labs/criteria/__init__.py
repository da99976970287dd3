"""Say how wrong a detector is: one criterion per architecture, each a sum of named terms."""

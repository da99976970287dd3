"""Keep the book true: execute lessons, stamp them, check their form, rebuild what is generated."""

"""What the operations of ATen mean for labels."""

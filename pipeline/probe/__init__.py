"""What is trained again to measure a pair; nothing here judges."""

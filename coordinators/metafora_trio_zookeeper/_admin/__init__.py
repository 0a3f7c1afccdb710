"""What operators need: doctor, and the removal of a namespace."""

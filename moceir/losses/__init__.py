"""The losses that training minimises: functions of a restored and a clean picture, and their weighted sum."""

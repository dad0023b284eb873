"""What a report says, as plain data: events read, figures gathered, tables and sections made."""

"""Everything that touches the outside: storage, arrays, tables, commits, locks, executors, deliveries, events."""

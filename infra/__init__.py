"""Everything that touches the outside: storage, arrays, tables, commits, executors, events."""

"""Where tasks run: in this process, or on actors of a Ray cluster; and the threads that compute and read ahead."""

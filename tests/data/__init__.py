"""Data that tests read: roots that released versions wrote."""

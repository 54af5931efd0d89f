"""Arrow files and streams: their messages, the bodies of these, and the rows in them."""

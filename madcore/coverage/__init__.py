"""What of a model its rows can cover, found before they are computed: its forward pass, its layers, their shares."""

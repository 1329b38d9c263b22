"""Graph analyses shared by several passes."""

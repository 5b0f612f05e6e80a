"""What is remembered: transitions, and how they are drawn again."""

"""The bricks of every backbone. Each takes plain numbers and a TokenGrid; none knows the config."""

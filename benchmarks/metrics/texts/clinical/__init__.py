"""Generated reports against what holds: findings found, missed, made up."""

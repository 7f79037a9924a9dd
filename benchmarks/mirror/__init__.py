"""Results in storage that machines share: a folder of this machine that is kept in step with it."""

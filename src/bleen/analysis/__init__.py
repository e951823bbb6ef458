"""Evidence and judgement: sequential tests, windows, the judge. Pure, so that a replay uses the same code."""

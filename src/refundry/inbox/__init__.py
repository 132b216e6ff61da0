"""What Stripe has told us: every event, raw, stored once. It does not read Stripe and applies nothing; whoever follows the money does."""

"""Following the money: which hints have to be read again at Stripe, what a read changes here, and how far each feed was read."""

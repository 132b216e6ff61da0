"""Files of refunds: opens one, checks that it is sound as a whole, and reads its rows. It resolves no charge and pays nothing."""

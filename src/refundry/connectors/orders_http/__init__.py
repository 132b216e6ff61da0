"""The order system, told by signed calls over HTTP after the Standard Webhooks specification."""

"""Conversations -> token ids, masks and batches."""

"""A blind comparison as pure logic: its steps, what the answers say, and a judge's ratings beside them."""

"""Pictures, the table of the learned reward, and the HTML page of an experiment."""

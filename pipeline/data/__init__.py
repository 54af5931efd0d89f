"""The data sets that an audit reads: files of samples, their ids, inputs and truth. Nothing here writes."""

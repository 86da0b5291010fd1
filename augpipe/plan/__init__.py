"""From a recipe's ops to what is done: nodes, fusion, placement, explanation."""

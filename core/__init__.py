"""The vocabulary every other folder speaks: records, typed recipes, plug-ins, run folders, results, console."""

"""Reports as one HTML file that needs nothing else: style, markup and plots."""

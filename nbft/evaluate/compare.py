from nbft.widgets.result import Comparison  # moved here at integration

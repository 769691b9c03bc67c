"""What a user asks with: points, boxes, masks, and files of them."""
